"""The mathematics that nodes and trainer share: functions, constants and plain data."""
