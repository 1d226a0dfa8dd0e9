"""What the listener's predecessor had for applications: publish, subscribe, callbacks."""
