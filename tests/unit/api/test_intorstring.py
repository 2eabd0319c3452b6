import pytest

from sampan.api.intorstring import is_percent, percent, scaled_value


@pytest.mark.parametrize(("value", "total", "up", "wanted"), [
    (3, 10, True, 3), ("25%", 10, True, 3), ("25%", 10, False, 2), ("0%", 10, True, 0), ("100%", 7, False, 7),
    ("200%", 7, True, 14), ("-10%", 15, False, -1), ("-10%", 15, True, -1),
])
def test_scaled(value: int | str, total: int, up: bool, wanted: int) -> None:
    assert scaled_value(value, total, round_up=up) == wanted


def test_refuses_what_is_no_percentage() -> None:
    with pytest.raises(ValueError, match="invalid type: string is not a percentage"):
        scaled_value("3", 10, round_up=True)
    with pytest.raises(ValueError, match=r'strconv\.Atoi: parsing "a": invalid syntax'):
        percent("a%")


def test_tells_percentages() -> None:
    assert is_percent("5%")
    assert not is_percent("5")
    assert not is_percent(5)
