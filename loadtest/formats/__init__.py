"""Readers of trace formats, one file each, into `loadtest.workload.Workload`."""
