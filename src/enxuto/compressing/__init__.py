"""Make a trained network small for deployment, and judge it in the runtime that will execute it."""
