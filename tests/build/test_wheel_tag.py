"""Tests the platform tag of a wheel."""

from __future__ import annotations

from pathlib import Path

import pytest
import wheel_tag


@pytest.mark.parametrize(
    ("symbols", "expected"),
    [
        ("(GLIBC_2.2.5) memcpy\n(GLIBC_2.14) x\n(GLIBCXX_3.4.9) y", "manylinux_2_17_x86_64"),
        ("(GLIBC_2.34) dlsym\n(GLIBC_2.4) x\n(GLIBCXX_3.4.29) y", "manylinux_2_34_x86_64"),
        ("(GLIBC_2.28) x\n(GLIBCXX_3.4.30) y", "manylinux_2_35_x86_64"),  # an old glibc with a new C++ runtime
        ("(GLIBC_2.17) x", "manylinux_2_17_x86_64"),
        ("(GLIBC_2.99) x", "linux_x86_64"),
        ("memcpy", "linux_x86_64"),  # of musl
        ("", "linux_x86_64"),  # no objdump
    ],
)
def test_platform_tag_follows_symbol_versions(symbols: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel_tag, "run_text", lambda *_: symbols)
    assert wheel_tag.platform_tag(Path("libssd_ops.so"), "linux_x86_64") == expected


def test_platform_tag_of_other_systems_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel_tag, "run_text", lambda *_: "(GLIBC_2.17) x")
    assert wheel_tag.platform_tag(Path("libssd_ops.so"), "macosx_14_0_arm64") == "macosx_14_0_arm64"
