"""Pure tensor functions: distances, colours, exact sums, and how they are computed fast. No network, no options.

Imports `checks` and `process` only. A new way to compare feature maps goes into `distance`, its fast form into `fused`.
"""
