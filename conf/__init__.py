"""The YAML groups; ships as `sweeps.conf`."""
