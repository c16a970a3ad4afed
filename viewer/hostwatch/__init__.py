"""Hostwatch: says what Docker knows of our own containers on its host, and changes nothing."""
