"""LPIPS and DAMLPIPS as torchmetrics metrics, exact on any number of processes.

An update goes from top to bottom: `metrics` holds the two classes and their options; `accumulate` turns images into
scores (with `shared_pass`, which runs a backbone once for several metrics) and scores into a value; `store_metric` is
where torchmetrics ends, with all that is overridden of it; `score_store` keeps the scores and knows nothing of either.
"""
