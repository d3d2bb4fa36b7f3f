"""TurboMind's memory, by what takes it: `slabs` from 0.15 on, `blocks` before."""
