"""The scikit-learn container: fitted estimators and pipelines, from skops files or, where allowed, from pickles."""
