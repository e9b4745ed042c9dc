"""Runs a plan of jobs: starts stages by name in processes of their own and keeps their states; never imports a stage."""
