"""What to tell the user about a run's attention, where its device has no kernel for it."""

from hermes.training.request import RunComponents, RunRequest


def describe_attention(request: RunRequest, components: RunComponents) -> tuple[str, ...]:
    """The backend's sentence on what attention costs; none where it has none to say."""
    describe = getattr(request.backend, "describe_attention", None)
    if describe is None:
        return ()
    recipe = components.recipe
    is_packed = recipe.document_mask or getattr(components.training_data.dataset, "pack", False)
    told = describe(
        components.spec,
        request.options,
        has_segments=is_packed,
        has_dropout=recipe.objective != "preference",
    )
    return () if told is None else (told,)
