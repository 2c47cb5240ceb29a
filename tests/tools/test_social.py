"""The social preview: the size that GitHub asks for, made of the gallery's figure."""

from __future__ import annotations

import pytest

from lagkit.util.errors import ConfigError
from lagkit.views import pictures
from tools import social


def test_the_preview_is_of_github_s_size_and_small():
    picture = (social.ROOT / "docs" / "social-preview.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert [int.from_bytes(picture[start : start + 4]) for start in (16, 20)] == [1280, 640]
    assert len(picture) < 1_000_000


def test_it_is_drawn_from_a_figure_of_the_gallery():
    try:
        pictures.browser()
    except ConfigError as error:
        pytest.skip(str(error))
    drawn = social.picture(social.ROOT / "docs" / "gallery" / "90_gallery.ipynb")
    assert [int.from_bytes(drawn[start : start + 4]) for start in (16, 20)] == [1280, 640]
