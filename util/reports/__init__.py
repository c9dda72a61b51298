"""Runs on paper: report.html, comparisons of several runs."""
