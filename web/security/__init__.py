"""Authentication, access and limits of sign-ins."""
