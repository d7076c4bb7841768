"""Hugging Face's config.json, read and written for each model family.

In reading order; a module imports only those above it:

    fields         a config.json read field by field, so that nothing is silently ignored
    families       which Hugging Face class computes the same function as a spec
    rope           rotary positions, in the fields of old and of new releases
    gpt            reader for GPT-2 and GPT-NeoX, whose fields have other names
    config_reader  config.json -> spec
    config_writer  spec -> config.json
    inexpressible  why no class computes a spec
    reader_support which other tools load a folder, and whether they compute the same
"""
