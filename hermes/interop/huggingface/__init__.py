"""Hugging Face's config.json, read and written for each model family.

In reading order; a module imports only those above it:

    fields         a config.json read field by field, so that nothing is silently ignored
    draft, layers  a specification while it is read or written
    parts          fields of config.json, each read and written; likewise block_parts, rope,
                   rope_scaling, windows, position_parts and rare_parts
    family         a row of the table of families: parts and names of tensors (tensor_modules)
    *_like, *_rows the rows
    families       the table, and which class computes the same function as a spec
    config_reader  config.json -> spec; unsupported refuses what MAL lacks
    config_writer  spec -> config.json
    inexpressible  why no class computes a spec
    reader_support which other tools load a folder, and whether they compute the same
"""
