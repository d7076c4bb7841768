"""Finetuning: the model that a run begins from, SFT, DPO and the reference of DPO."""
