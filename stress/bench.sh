#!/bin/sh
# The benchmark: ratios measured in one run, nothing judged. The same as `concmem bench`.
exec concmem bench "$@"
