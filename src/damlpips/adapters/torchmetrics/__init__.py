"""LPIPS and DAMLPIPS as torchmetrics metrics, exact on any number of processes."""
