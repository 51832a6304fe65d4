"""The sans-IO core: events in, commands out, time passed in. Imports the standard library and xxhash only."""
