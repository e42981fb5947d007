"""Whether an experiment fits named hardware, asked of the real compilers on any CPU machine."""
