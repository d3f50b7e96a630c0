"""Built-in containers: one folder per kind of model, each knowing only `serving.contract` and the floors below it."""
