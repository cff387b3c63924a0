"""The main job on one machine: a real model, two replicas, one of them killed halfway."""
