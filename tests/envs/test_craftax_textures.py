"""Textures are made once, then read; a spoilt file is made anew."""

import types

import jax
import numpy as np

from automem_jax.envs.craftax_textures import BLOCK_PIXELS, pixel_renderer


def test_textures_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []

    def load_all_textures_given_size(size):
        made.append(size)
        return {"grass": jax.device_put(np.full((size, size, 3), 7, np.int32))}

    constants = types.SimpleNamespace(load_all_textures_given_size=load_all_textures_given_size)
    renderer = types.SimpleNamespace(load_all_textures=None)

    def make_craftax_pixel_renderer(size):
        grass = renderer.load_all_textures()[size]["grass"]
        return lambda state: state + grass

    renderer.make_craftax_pixel_renderer = make_craftax_pixel_renderer

    def picture():
        return pixel_renderer("game", constants, renderer)(np.int32(1))

    assert (picture() == 8).all() and (picture() == 8).all()
    assert made == [BLOCK_PIXELS] and renderer.load_all_textures is None
    (kept,) = (tmp_path / "automem_jax" / "textures").iterdir()
    kept.write_bytes(b"torn")
    assert (picture() == 8).all() and len(made) == 2
