"""What a NoiseMonitor wrote during a run: read, summed up, and shown on the terminal and as a page."""
