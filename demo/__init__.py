"""The main job on one machine: a real model, two servers, one of them killed halfway."""
