"""This machine: child processes, signals, NVML, host memory and disk, the LMDeploy that is installed."""
