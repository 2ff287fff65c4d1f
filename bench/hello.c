// The least that a static program of the C library costs: exec to exit.
int main(void) { return 0; }
