"""Many processes as one program: collectives, launching, stopping, machines and devices."""
