"""What the gateways, instances and pools of one deployment share: pure objects that are told the time."""
