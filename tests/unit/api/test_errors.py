from sampan.api.errors import invalid, invalid_object, required


def test_what_is_said_twice_is_told_once() -> None:
    """Some of upstream's paths name a list and not its entry, so that two entries' complaints read the same."""
    missing, wrong = required("spec.a"), invalid("spec.b", "x", "must be y")
    assert str(invalid_object("", "Pod", "p", [missing, missing])) == 'Pod "p" is invalid: spec.a: Required value'
    refused = invalid_object("", "Pod", "p", [missing, wrong, missing])
    assert str(refused) == ('Pod "p" is invalid: [spec.a: Required value, spec.b: Invalid value: "x": must be y]')
    assert len(refused.causes) == 3
