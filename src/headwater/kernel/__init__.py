"""The kernel: the data layer without a domain. It knows no module, no service and no command."""
