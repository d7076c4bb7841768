"""Models of other tools: reading them, converting both ways, and the Hugging Face Hub.

In reading order; a module imports only those above it:

    huggingface/      config.json <-> spec
    nanogpt_litgpt    the configurations of nanoGPT and litgpt -> spec
    tensor_names      names and layouts of tensors in other tools' files
    dtype             dtypes of tensor files
    torch_checkpoint  opens files of torch.save without running code
    companions        tokenizer and other small files beside the weights
    hub_client, hub   downloads of hf:// names
    open_model        opens any model: spec, tensors, companions
    model_folder      writes a model's folder
    verify            checks that a conversion preserved tensors and logits
    convert           the conversion
    model_card, publish  uploads to the Hub
"""
