"""Evaluation: how well a model predicts what it was not trained on."""
