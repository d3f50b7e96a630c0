"""The LightGBM container: boosters as LightGBM's `save_model` writes them."""
