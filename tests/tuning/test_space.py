"""The settings that tuning may change."""

import pytest

from recsys.config import BLEND, Config, config_from_dict
from recsys.tuning import space
from recsys.tuning.space import Setting, value_of, with_values

GROUPS = {
    name: settings
    for name, settings in vars(space).items()
    if name.isupper() and isinstance(settings, tuple)
} | {f"EMBEDDING {model}": settings for model, settings in space.EMBEDDING.items()}
SETTINGS = [setting for settings in GROUPS.values() for setting in settings]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_is_one_of_the_configuration(setting: Setting) -> None:
    """It is there, of that type, and both ends of its range are allowed."""
    assert isinstance(value_of(Config(), setting.name), int if setting.whole else float)
    for end in (setting.low, setting.high):
        value = int(end) if setting.whole else float(end)
        assert value_of(with_values(Config(), {setting.name: value}), setting.name) == value


def test_every_weight_of_the_blend_is_searched() -> None:
    """A part that is new to the blend must be new here too."""
    searched = {setting.name for setting in space.BLEND + space.BLEND_PAST + space.BLEND_IN_ORDER}
    assert searched == {f"blend.weights.{name}" for name in BLEND}


@pytest.mark.parametrize("model", space.EMBEDDING)
def test_every_embedding_model_has_its_settings(model: str) -> None:
    """What can be chosen can be tuned."""
    assert config_from_dict({"embedding": {"model": model}}).embedding.model == model
    assert space.EMBEDDING[model]


def test_weights_by_place_are_not_searched_where_the_order_is_ignored() -> None:
    """What a trial would change there, training would put back."""
    ignored = Config().settled(simultaneous=True)
    kept = Config().settled(simultaneous=False)
    for settings in (space.TRANSITIONS, space.SESSION_KNN, space.SESSION_EMBEDDING):
        assert space.in_force(settings, kept) == settings
        told = space.in_force(settings, ignored)
        assert 0 < len(told) < len(settings)
        for setting in told:
            changed = with_values(ignored, {setting.name: setting.high})
            assert value_of(changed.settled(simultaneous=True), setting.name) == setting.high
    assert space.in_force(space.BLEND_SESSION, ignored) == ()
