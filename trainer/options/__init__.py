"""The options of a run: one dataclass, its flags, its TOML, its documentation."""
