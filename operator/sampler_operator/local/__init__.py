"""Fleets on one machine: the operator's own decisions, with processes in the place of pods."""
