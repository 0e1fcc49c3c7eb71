"""Influences from plain arrays, in the order of the flow from masks and outputs to a `Fit`.

| module | job |
| --- | --- |
| `fitting` | `fit(masks, outputs)`: check, collapse, choose, estimate, assess |
| `inputs` | check the arrays that a caller gives |
| `masks`, `arrays` | masks as bits; array types, and the pieces in which large arrays are worked on |
| `collapse` | average the seeds of a subset, put complements side by side, make folds |
| `moments` | sums over models, which is all that estimators see |
| `contract` | what an estimator is: `Estimator`, and the `Estimate` that it gives |
| `estimators` | the estimators by name, and the look-up of a user's |
| `difference`, `ridge`, `lasso` | the estimators, one method a module (`ridge` holds least squares too) |
| `normal_equations`, `sides`, `balance` | what they share |
| `tables` | a table of influences and q-values, in memory or part by part on disk |
| `inference` | p-values, q-values, intervals, differences of means |
| `checks`, `forecast`, `assessment` | held-out prediction and reliability; the models needed; both in words |
"""
