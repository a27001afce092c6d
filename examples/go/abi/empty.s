// Go wants to see one of these beside functions without a body.
