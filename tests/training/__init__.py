"""Tests of training the embedded vocoder."""
