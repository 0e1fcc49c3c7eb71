"""Influences from plain arrays.

`fitting.fit` lists the steps: check the arrays, average the seeds of a subset (`collapse`), choose one of the
`estimators` by held-out prediction (`checks`), estimate its table (`tables`, with q-values from `inference`), and say
how far to trust it. An estimator fulfils the `contract` and sees the models through their `moments` alone.
"""
