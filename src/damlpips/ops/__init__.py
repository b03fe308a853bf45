"""Pure functions: distances, colours, exact sums, tiles, and how to compute them fast. No networks, no options.

Imports `checks` alone. A new way to compare feature maps goes into `distance`, its fast form into `fused`.
"""
