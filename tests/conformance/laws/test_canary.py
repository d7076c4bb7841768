"""The canary: a float64 that is not one refuses a level."""

from hermes.errors import Unsupported
from hermes_conformance.laws.canary import explain_refusal, measure_canaries
from hermes_conformance.measure.subject import BackendUnderTest
from tests.conformance.support import plant


class BackendWithoutGelu:
    """A backend that declines gelu and is another one otherwise."""

    def __init__(self, backend):
        self.backend, self.name = backend, "picky"

    def build(self, spec, params, options):
        if spec.layers[0].ffn.function == "gelu":
            raise Unsupported("hermes_picky has no gelu")
        return self.backend.build(spec, params, options)


def test_functions_that_are_declined_leave_the_others_to_be_measured(backends):
    torch = backends("torch").subject
    subject = BackendUnderTest(BackendWithoutGelu(torch.backend), "cpu")
    assert explain_refusal(subject) is None
    assert len(measure_canaries(subject)) == len(measure_canaries(torch)) - 1
    with plant("float32 inside float64's silu"):
        refusal = explain_refusal(subject)
    assert refusal.startswith("the float64 of picky is not one: exp in silu is off by")
