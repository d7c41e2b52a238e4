"""Benchmarks of this project on the machine they run on.

scenarios   what is measured, one module each, and the reports
loadgen     one load generator for all of them: open and closed loops over any kind of call
targets     what is put under load: the CPU engine, a gateway, `guard serve`, a proxy, a null engine
"""
