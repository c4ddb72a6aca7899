"""
A report as one HTML file that needs nothing else: no script, no font, no network.

Drawn as SVG with svg.py, which is in the ``report`` extra: nothing else in the package imports this. Colours are
classes and custom properties of ``page.css``, so that the pictures follow the reader's light or dark scheme.
"""
