"""Models of other tools: reading them, converting both ways, and the Hugging Face Hub.

In reading order; a module imports only those above it:

    huggingface/      config.json <-> spec
    nanogpt_litgpt    the configurations of nanoGPT and litgpt -> spec
    tensor_layout     which tensors a family stores, and what of ours each is made of
    tensor_names      names of tensors in other tools' files
    dtype             dtypes of tensor files
    torch_checkpoint  opens files of torch.save without running code
    companions        tokenizer and other small files beside the weights
    hub_client, hub   downloads of hf:// names
    open_model        opens any model: spec, tensors, companions
    class_adapters    adapters in the layout of a class
    adapters          merges an adapter into a model
    model_folder      writes a model's folder
    verify            checks that a conversion preserved tensors and logits
    adapter_folder    writes a run's adapters for PEFT or mlx-lm
    convert           the conversion
    model_card, publish  uploads to the Hub
"""
