"""Diagnostics: questions to a model, before any attack, whose answers say whether its numbers can be trusted.

One idea a file; `registry.DIAGNOSTICS` lists them. Diagnostics that compare the results of attacks are in
``reports/analysis/``, because they need no model.
"""
