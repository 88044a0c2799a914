"""How processes divide a training among them: some share a network's channels, some its images.

>>> Devices.of("groups=2,data=4")
Devices(groups=2, data=4)
"""

from __future__ import annotations

from dataclasses import dataclass

from regroup.errors import ConfigError


@dataclass(frozen=True)
class Devices:
    """How many processes share one network's channels, and how many such teams share the images.

    Args:
        groups: processes of one team, each with a part of the channels.
        data: teams.
    """

    groups: int = 1
    data: int = 1

    @classmethod
    def of(cls, text: str) -> Devices:
        """Return what a text such as "groups=2,data=2" says.

        Raises:
            ConfigError: it says nothing of the kind.
        """
        found: dict[str, int] = {}
        for part in text.split(","):
            name, _, number = part.strip().partition("=")
            if name not in ("groups", "data") or name in found or not number.isdecimal() or int(number) < 1:
                raise ConfigError("devices", text, "such as groups=2 or groups=2,data=4", "numbers from 1 on")
            found[name] = int(number)
        return cls(**found)

    @property
    def processes(self) -> int:
        """How many they are together."""
        return self.groups * self.data
