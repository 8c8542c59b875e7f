"""Hosts, routers, containers and traffic, made of network namespaces on this machine."""
