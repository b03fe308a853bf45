"""The scenes of the demo images; each is rendered from a formula and a seed, no photograph is involved."""
