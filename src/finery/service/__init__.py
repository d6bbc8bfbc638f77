"""The process that holds it all together: start, stop, certificates, the app."""
