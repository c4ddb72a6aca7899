"""What :class:`concmem.explore.DPOR` is made of: footprints, history, observer, tree."""
